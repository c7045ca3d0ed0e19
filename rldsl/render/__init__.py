"""rldsl.render: what a user sees in the terminal; each view is a class that rich draws."""
