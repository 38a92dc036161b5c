"""Faults at random moments of a run with actors: what is lost, how long it takes, and what is left behind.

| file | what it holds |
|---|---|
| session | a session: some faults of one kind in one run, and whether all that was asked for is accounted for |
| actors | sessions in which actors are killed, or hang |
| learner | sessions in which the learner is killed and resumed |
| command | the study as a command: records, and their page |
"""
