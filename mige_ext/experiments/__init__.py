"""The experiments of Wen et al. (ICLR 2020) and information removal, one package each."""
