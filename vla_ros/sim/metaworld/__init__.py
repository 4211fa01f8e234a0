# SPDX-License-Identifier: Apache-2.0
"""Meta-World's fifty tasks (Yu et al., arXiv 1910.10897; package ``metaworld``) behind the interface of the tabletop."""
