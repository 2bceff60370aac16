"""The papers' experiments: runs that are done once (`runs`), complexity along them (`along`), what is reported
(`measures`), tables (`results`), and students of growing width (`width`)."""
