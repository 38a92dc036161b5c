"""A learner so small that runs take seconds: what the loop is tested with. Not a test itself."""

import dataclasses

import jax
import jax.numpy as jnp

import envs
from experiments.console import Display
from experiments.spec import Spec
