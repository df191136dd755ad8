"""The commands of `hostd`, a file for each group."""
