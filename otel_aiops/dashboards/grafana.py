"""Boards as Grafana's Classic JSON, made with grafana-foundation-sdk: what every dashboard and panel has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from otel_aiops.dashboards.board import Board, Kind, Panel, Query, Row, Variable

COLUMNS = 24
SOURCE = words.DataSourceRef(type_val="prometheus", uid="${datasource}")
LETTERS = "ABCDEFGHIJ"


def rendered(board: Board) -> str:
    """The JSON of a board as it is committed."""
    built = dashboard.Dashboard(board.title).uid(f"otel-aiops-{board.name}").description(board.says)
    built = built.tags(["otel-aiops"]).editable().tooltip(models.DashboardCursorSync.CROSSHAIR)
    built = built.refresh("1m").time(board.since, "now").timezone("browser").version(1)
    built = built.link(_links()).with_variable(_datasource())
    for variable in board.variables:
        built = built.with_variable(_variable(variable))
    made = built.build()
    made.panels = list(_placed(board))
    return f"{JSONEncoder(sort_keys=True, indent=2).encode(made)}\n"


def _links() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("otel-aiops").type(models.DashboardLinkType.DASHBOARDS).tags(["otel-aiops"])
    return link.icon("external link").as_dropdown(True).include_vars(False).keep_time(True)


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _variable(variable: Variable) -> dashboard.QueryVariable:
    found = dashboard.QueryVariable(variable.name).label(variable.label).datasource(SOURCE)
    found = found.query({"qryType": 1, "query": variable.query, "refId": variable.name}).definition(variable.query)
    found = found.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    if variable.many:
        everything = models.VariableOption(text=["All"], value=["$__all"])
        found = found.multi(True).include_all(True).all_value(".*").current(everything)
    return found


def _placed(board: Board) -> Iterator[models.Panel | models.RowPanel]:
    """Panels from left to right, on the next line when one is full; a row begins a line."""
    x = y = height = 0
    for number, item in enumerate(board.items, 1):
        if isinstance(item, Row) or x + item.width > COLUMNS:
            x, y, height = 0, y + height, 0
        if isinstance(item, Row):
            place = models.GridPos(h=1, w=COLUMNS, x=0, y=y)
            yield models.RowPanel(title=item.title, id_val=number, collapsed=False, grid_pos=place, panels=[])
            y += 1
            continue
        made = _panel(item).id(number).grid_pos(models.GridPos(h=item.height, w=item.width, x=x, y=y)).build()
        yield made
        x, height = x + item.width, max(height, item.height)


def _panel(panel: Panel) -> Any:
    made: Any = _SHAPES[panel.kind](panel)
    steps = [models.Threshold(value=value, color=colour) for value, colour in panel.steps]
    levels = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
    made = made.title(panel.title).description(panel.says).datasource(SOURCE).unit(panel.unit).thresholds(levels)
    for letter, query in zip(LETTERS, panel.queries, strict=False):
        made = made.with_target(_target(letter, query, panel.kind))
    return made


def _target(letter: str, query: Query, kind: Kind) -> prometheus.Dataquery:
    found = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(query.expr).legend_format(query.legend)
    if kind == "table":
        found = found.format(prometheus_models.PromQueryFormat.TABLE)
    return found.range() if kind in ("lines", "states") else found.instant()


def _newest() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)


def _stat(panel: Panel) -> stat.Panel:
    made = stat.Panel().reduce_options(_newest()).graph_mode(words.BigValueGraphMode.NONE)
    return made.color_mode(words.BigValueColorMode.BACKGROUND).color_scheme(_by_thresholds())


def _bars(panel: Panel) -> bargauge.Panel:
    made = bargauge.Panel().reduce_options(_newest()).orientation(words.VizOrientation.HORIZONTAL)
    return made.display_mode(words.BarGaugeDisplayMode.GRADIENT).min(0).color_scheme(_by_thresholds())


def _by_thresholds() -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().display_mode(words.LegendDisplayMode.LIST)
    return legend.placement(words.LegendPlacement.BOTTOM).show_legend(True)


def _lines(panel: Panel) -> timeseries.Panel:
    tooltip = common.VizTooltipOptions().mode(words.TooltipDisplayMode.MULTI).sort(words.SortOrder.DESCENDING)
    made = timeseries.Panel().legend(_legend()).tooltip(tooltip).fill_opacity(0)
    if len(panel.steps) > 1:
        style = common.GraphThresholdsStyleConfig().mode(words.GraphThresholdsStyleMode.DASHED)
        made = made.thresholds_style(style)
    if panel.band:
        upper, lower = panel.band
        thin = models.DynamicConfigValue(id_val="custom.lineWidth", value=0)
        area = [
            models.DynamicConfigValue(id_val="custom.fillBelowTo", value=lower),
            models.DynamicConfigValue(id_val="custom.fillOpacity", value=20),
        ]
        made = made.override_by_name(upper, [thin, *area]).override_by_name(lower, [thin])
    return made


def _states(panel: Panel) -> statetimeline.Panel:
    made = statetimeline.Panel().legend(_legend()).show_value(words.VisibilityMode.NEVER).merge_values(True)
    return made.row_height(0.8).color_scheme(_by_thresholds())


def _table(panel: Panel) -> table.Panel:
    """One line for each set of labels, one column for each query."""
    one = len(panel.queries) == 1
    names = {
        "Value" if one else f"Value #{letter}": query.legend
        for letter, query in zip(LETTERS, panel.queries, strict=False)
        if query.legend
    }
    hidden = ["Time", "__name__", *panel.hidden, *([] if names else ["Value"])]
    many = len(panel.queries) + 1
    hidden += [f"__name__ {k}" for k in range(1, many)] if not one else []
    organize = {"excludeByName": dict.fromkeys(hidden, True), "renameByName": names}
    made = table.Panel().show_header(True)
    if not one:
        made = made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    made = made.with_transformation(models.DataTransformerConfig(id_val="organize", options=organize))
    for column, unit in (panel.units or {}).items():
        made = made.override_by_name(column, [models.DynamicConfigValue(id_val="unit", value=unit)])
    if panel.queries[0].legend:
        order = common.TableSortByFieldState().display_name(panel.queries[0].legend).desc(True)
        made = made.sort_by([order])
    return made


_SHAPES = {"stat": _stat, "lines": _lines, "table": _table, "bars": _bars, "states": _states}
