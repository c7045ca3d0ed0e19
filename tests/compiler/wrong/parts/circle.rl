# Imports itself.
import "circle.rl"
