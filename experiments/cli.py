"""The training command as a function, for a launcher that registers environments or tasks of its own first.

from experiments import cli
sys.exit(cli.main(sys.argv[1:], domain="tokens"))
"""

from experiments.run.command import main as main
