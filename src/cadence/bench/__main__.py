"""`python -m cadence.bench` is `cadence bench`."""

from cadence.bench.command import bench

if __name__ == "__main__":
    bench(prog_name="python -m cadence.bench")
