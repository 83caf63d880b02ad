"""What `alexnet bench` runs: ours and its peers in one run, each beside the least that this machine allows."""
