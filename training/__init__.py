"""How the demo encoder and the demo pictures are made: fetch, render, cache, train, export, evaluate."""
