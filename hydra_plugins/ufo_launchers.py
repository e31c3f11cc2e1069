"""Where Hydra looks for plug-ins: `hydra/launcher=submitit_slurm` and `submitit_local` (see ufo/sweeps/)."""

from importlib.util import find_spec

if find_spec("hydra_plugins.hydra_submitit_launcher"):
    from ufo.sweeps import cluster

    class SlurmLauncher(cluster.Slurm):
        """One Slurm job per run."""

    class LocalLauncher(cluster.Local):
        """One process per run on this machine, as submitit starts it on a cluster."""
