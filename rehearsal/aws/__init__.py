"""What AWS would answer, without AWS: plausible ids and computed properties for the rehearsal and the unit tests."""
