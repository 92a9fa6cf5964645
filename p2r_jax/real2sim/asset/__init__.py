"""The asset step: a watertight mesh and its weight become an object that trains."""
