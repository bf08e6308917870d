"""The recipe of `models/reader-shop-5m`: random play and reading exercises in generated shops (`pretrain/README.md`)."""
