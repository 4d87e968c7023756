"""The parts of `utils.lakefs_utils.LakeFS`, each on top of the one it needs: connection, reading, the rest."""
