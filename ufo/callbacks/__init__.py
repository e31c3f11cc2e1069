"""Lightning callbacks that watch a run: pictures, records, checkpoints, speed, trouble."""
