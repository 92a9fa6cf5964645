"""``p2r bench``: run the checkout's benchmarks, keep their history, compare two of them."""
