"""Learners of token tasks. Each is a choice of targets for an `update` that learners of control use too.

SFT        imitation of an expert                              reinforce.update, weight 1
Rejection  imitation of one's own correct responses            reinforce.update, weight 1 or 0
REINFORCE  return-to-go, less the mean of other responses      reinforce.update
RLOO       return, less the mean of others to its prompt       reinforce.update
PPO        a critic, GAE, the clipped surrogate                ppo.update
GRPO       return relative to its group, the surrogate         grpo.update
Dr. GRPO   GRPO without two divisions that favour              grpo.update, other settings
           easy prompts and long wrong answers
DAPO       GRPO of groups with spread, a wider upper clip      grpo.update, other settings
GSPO       GRPO with the ratio of a whole response             grpo.update, other settings
CISPO      GRPO with clipped ratios as constant weights        grpo.update, other settings
REINFORCE++  return-to-go, whitened over the batch             grpo.update
DPO, IPO,  the log-ratio of a chosen response to a         preference.preference_step
KTO        rejected one, pairs made once
SimPO,     the same without a reference                    preference.preference_step
ORPO

`task` is what they ask of an environment, `reward` what they learn from, `collection` how responses come about,
`policy` what they share; `generation` and `transformer` are the model.
"""
