"""Learning from recorded data, without an environment to try things in: from imitation to values.

| learner | it is |
|---|---|
| `bc`, `percent_bc` | imitation, of all that was recorded or of the best of it |
| `awr` | selective imitation: actions weighted by how much better they were than expected |
| `td3_bc` | a learner of values that is held near the data by imitation |
| `iql` | values of the best recorded actions, never asked about others; then selective imitation |
| `cql` | values that are kept low where there are no data |
| `decision_transformer` | a sequence model that is asked for a return |
"""
