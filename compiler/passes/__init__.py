"""One pass a file; `rldsl.compiler.pipeline` says in which order they run and why."""
