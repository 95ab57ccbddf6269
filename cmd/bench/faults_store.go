package main

// storeScenarios hit nodes while they write, or take away what they have written.
func storeScenarios() []scenario { return nil }
