"""A run as one page that a browser opens without a network: facts are gathered, drawn by Vega-Lite, and written."""
