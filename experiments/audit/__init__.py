"""What ``clipward audit`` says about pairs: scores, groups, how sure it is, and a page that shows them."""
