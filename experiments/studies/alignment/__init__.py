"""Alignment on a task whose true reward is known: what is gained, and lost, by learning from a learned reward or pairs.

python -m experiments.studies alignment                  # everything; what is there already is kept
python -m experiments.studies alignment --figures 1 6    # two figures alone
python -m experiments.studies alignment --quick          # tiny, to see that it works

settings            sizes of all experiments
policies, models    the imitated policies, the reward models, and what both are measured by
training            a learner over all seeds, measured on the way
overoptimisation, scaling, penalties, ensembles, pair_losses, offline, step_rewards, family
                    one experiment each: named cells, each computed apart, and the figure of them
page                the figures, and the first lines of the page
"""
