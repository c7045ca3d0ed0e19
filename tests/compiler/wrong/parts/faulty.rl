# Has a mistake of its own.
algorithm faulty {
  param other : integer = 4
}
