"""A path between two nodes of a graph that the prompt lists edge by edge."""

from __future__ import annotations

import dataclasses
import string

import jax
import jax.numpy as jnp
import numpy as np

from envs.tokens.task import EOS, FIRST, PAD, SPECIAL, Task, is_finished, judge_outcome


@dataclasses.dataclass(frozen=True)
class GraphPath(Task):
    """Find a path between two nodes; every path that visits no node twice is correct. Prompt: the edges in random
    order, `>`, start, goal."""

    nodes: int = 6
    """nodes of the graph, which is connected"""
    extra_edges: int = 2
    """edges beyond the nodes - 1 that connect it"""

    def __post_init__(self):
        if not 4 <= self.nodes <= 26:
            raise ValueError(f"nodes must be between 4 and 26, got {self.nodes}")
        most = self.nodes * (self.nodes - 1) // 2 - (self.nodes - 1)
        if not 0 <= self.extra_edges <= most:
            raise ValueError(f"extra_edges must be between 0 and {most}, got {self.extra_edges}")

    @property
    def edges(self) -> int:
        """Number of edges of a prompt."""
        return self.nodes - 1 + self.extra_edges

    @property
    def vocabulary(self):
        """The names of all tokens."""
        return (*SPECIAL, *string.ascii_lowercase[: self.nodes], ">")

    @property
    def prompt_length(self):
        """Length of a prompt, in tokens."""
        return 2 * self.edges + 3

    @property
    def response_length(self):
        """Greatest length of a response, in tokens, the end included."""
        return self.nodes + 1

    def sample(self, key):
        """A random connected graph, edge by edge, and two different nodes."""
        n = self.nodes
        keys = jax.random.split(key, 6)
        order = jax.random.permutation(keys[0], n)
        # A random tree: each node but the first is tied to one before it.
        parents = jax.random.randint(keys[1], (n,), 0, jnp.maximum(jnp.arange(n), 1))
        tree = jnp.zeros((n, n), bool).at[order[1:], order[parents[1:]]].set(True)
        a, b = np.triu_indices(n, 1)
        # Those of the tree first, then any others; then shuffled, and turned at random.
        rank = jax.random.uniform(keys[2], (len(a),)) + (tree | tree.T)[a, b]
        chosen = jax.random.permutation(keys[3], jax.lax.top_k(rank, self.edges)[1])
        turn = jax.random.bernoulli(keys[4], shape=(self.edges,))
        first, second = jnp.asarray(a)[chosen], jnp.asarray(b)[chosen]
        pairs = jnp.stack([jnp.where(turn, second, first), jnp.where(turn, first, second)], axis=1)
        ends = jax.random.permutation(keys[5], n)[:2]
        tokens = jnp.concatenate([pairs.ravel(), jnp.array([n]), ends])
        return (tokens + FIRST).astype(jnp.int32)

    def canonical(self, prompt):
        """Returns the set of edges and the unordered pair of start and goal. Isomorphic graphs with other node names
        are different prompts."""
        above = np.triu_indices(self.nodes, 1)
        return jnp.concatenate(
            [self._beside(prompt)[above].astype(jnp.int32), jnp.sort(prompt[-2:])]
        )

    def solution(self, prompt):
        """A shortest path."""
        n, beside = self.nodes, self._beside(prompt)
        start, goal = prompt[-2] - FIRST, prompt[-1] - FIRST
        far = jnp.where(jnp.arange(n) == goal, 0, n)
        for _ in range(n - 1):
            far = jnp.minimum(far, 1 + jnp.min(jnp.where(beside, far, n), axis=1))

        def walk(node, _):
            onward = jnp.argmin(jnp.where(beside[node], far, n + 1))
            return jnp.where(node == goal, node, onward), node

        _, path = jax.lax.scan(walk, start, length=n)
        length = far[start] + 1
        place = jnp.arange(n + 1)
        tokens = jnp.where(place < length, jnp.append(path, 0) + FIRST, PAD)
        return jnp.where(place == length, EOS, tokens).astype(jnp.int32)

    def verify(self, prompt, response, length):
        """Correct: a path over edges of the graph from the start to the goal that visits no node twice. Well formed:
        nodes and an end. Credit: see `judge_outcome`."""
        n, size = self.nodes, self.response_length
        beside = self._beside(prompt)
        inside = jnp.arange(size) < length - 1
        node = jnp.clip(response - FIRST, 0, n - 1)
        is_node = (response >= FIRST) & (response < FIRST + n)
        well_formed = is_finished(response, length) & (length >= 2) & jnp.all(is_node | ~inside)
        visits = jnp.sum((node[:, None] == jnp.arange(n)) & inside[:, None], axis=0)
        tied = beside[node[:-1], node[1:]] | ~inside[1:]
        correct = (
            well_formed
            & (response[0] == prompt[-2])
            & (response[jnp.maximum(length - 2, 0)] == prompt[-1])
            & jnp.all(tied)
            & jnp.all(visits <= 1)
        )
        return judge_outcome(correct, well_formed, length, size)

    def _beside(self, prompt):
        """Adjacency of the nodes, bool [n, n]."""
        pairs = prompt[: 2 * self.edges].reshape(-1, 2) - FIRST
        beside = jnp.zeros((self.nodes, self.nodes), bool).at[pairs[:, 0], pairs[:, 1]].set(True)
        return beside | beside.T
