"""The invented world: people and facts, the corpus and questions made of them, and the training of the nano family.

Nothing in it was ever on the web, so a model knows a fact of this world only if it learnt it here: closed-book scores
are knowledge, and open-book scores on strangers are reading. Imports no other room of earnest, neither ray nor mlflow.
"""
