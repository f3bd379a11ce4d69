"""Off-policy evaluation: what another policy would have been worth, told from logged decisions and their exact propensities."""
