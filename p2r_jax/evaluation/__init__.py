"""Many closed loops, judged: "reality", methods by name, tables with intervals."""
