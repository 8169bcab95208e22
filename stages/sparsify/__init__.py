"""Methods that make N of every M weights the only non-zero ones. Importing the package loads no tensor library."""
