"""What conf/<group>/<option>.yaml names: one package for each group, one module for each option."""
