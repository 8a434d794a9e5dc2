"""The modules: contracts written in Python, at fixed addresses, behind the Solidity interfaces beside them."""
