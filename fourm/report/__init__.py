"""Pictures, plots and self-contained HTML pages, used by every job that shows something.

Values are in natural units: RGB and grey in [0, 1], depth in metres, normals as unit vectors, labels as class ids.

* `pictures.draw(modality, value)` turns one value into an image, by the drawing that suits it: `maps`, `features`,
  `boxes`, `crops`, `instances`, `poses`, `facts`, `swatches`,
* `legend.legend(names)` explains the colours of label maps, `legend.scale_legend(name, scale)` those of depth and
  other measured values,
* `grid.grid(cells, columns=..., rows=...)` lays images and captions out in one labelled picture,
* `plots.curves(...)` and `plots.bars(...)` give charts as SVG text,
* `metrics.rows(metrics)` explains the numbers of a `metrics.json`,
* `table.metrics_table(rows)` shows them on a terminal,
* `html.Page` collects all of these in one file that needs no network.
"""
