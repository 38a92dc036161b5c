"""Text tasks from the first token on: a base model made here, data sets of reasoning-gym learned from it, and games.

python -m experiments.studies text                     # everything; what is there already is kept
python -m experiments.studies text --figures 1 2       # two sections alone
python -m experiments.studies text --quick             # tiny, to see that it works

settings    sizes of all experiments
base        the base model: pre-trained and tuned on answers, written as a folder that `--model` reads
training    a learner of one seed, measured on the way
datasets    GRPO on each data set, and PPO and DPO on one
games       GRPO on tasks with turns
page        the sections, and the first lines of the page
"""
