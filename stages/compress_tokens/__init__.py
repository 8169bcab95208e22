"""Methods that let a Vision Transformer go on with fewer tokens. Importing the package loads no tensor library."""
