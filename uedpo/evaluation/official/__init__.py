"""The official scorers: POPE, CHAIR, Object HalBench, MMHal-Bench and AMBER, from files alone."""
