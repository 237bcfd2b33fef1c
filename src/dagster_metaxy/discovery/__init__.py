"""From sources to samples: list, compare, identify; and the sensor that watches."""
