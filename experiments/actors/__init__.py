"""Acting apart from learning: actors in processes of their own, on this machine or others, and one learner.

| file | what it holds |
|---|---|
| shares | how environments, random numbers and rollouts are dealt out and put together again |
| worker | an actor: its environments, the policy that was last sent, one rollout at a time |
| fleet | how the learner reaches its actors, and actors within its own process |
| cluster | actors as Ray's, on this machine or in a cluster |
| variables | environment variables of their processes |
| guardian | ends what Ray leaves behind when a run is killed |
| collector | which rollouts make the next batch: order, lag, loss |
| learner | the learning half of a run, in place of its compiled chunk of iterations |
| meter | durations, bytes and idle shares |
| cost | a model of these: computing, transfer, waiting |
"""
