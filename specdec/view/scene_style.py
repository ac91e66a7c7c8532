"""How the scene is set: what stands above the fold has a height of its own, and keeps it."""

from __future__ import annotations

SCENE_STYLE = """
[data-testid=stMainBlockContainer] {padding: 2.3rem 1.25rem 2rem; max-width: none}
[data-testid=stMain] [data-testid=stVerticalBlock] {gap: 0.5rem}
[data-testid=stHeader] {height: 2.2rem; min-height: 2.2rem}
.status {display: flex; align-items: center; gap: 0.6rem; height: 1.6rem; overflow: hidden;
  font-size: 0.85rem}
.status .state {padding: 0.1rem 0.5rem; border-radius: 0.4rem; font-weight: 600;
  white-space: nowrap; background: #94a3b83d}
.status .state.green {background: #22c55e3d} .status .state.blue {background: #3b82f63d}
.status .state.red {background: #ef44443d} .status .state.orange {background: #f59e0b3d}
.status .state.violet {background: #8b5cf63d}
.status .details {flex: 1; min-width: 0; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; opacity: 0.8}
.status .legend {flex-wrap: nowrap; white-space: nowrap; gap: 0.2rem 0.8rem; font-size: 0.8rem}
.verdict {height: 2.5rem; line-height: 1.25rem; font-weight: 600; overflow: hidden;
  display: flex; align-items: center}
.st-key-transport {height: 2.75rem}
@media (max-width: 640px) {
  .status {flex-wrap: wrap; height: auto} .status .legend {flex-wrap: wrap}
  .verdict {height: auto; min-height: 3.75rem}
  .st-key-transport {height: auto}
}
"""

PRESENTATION_STYLE = """
[data-testid=stSidebar], [data-testid=stExpandSidebarButton], [data-testid=stHeader],
[data-testid=stTooltipIcon]:not(:has([data-testid^=stBaseButton])) {display: none}
[data-testid=stMainBlockContainer] {padding-top: 0.6rem}
[data-testid=stMain] {font-size: 1.2rem}
.figures {height: 6.7rem}
.figure b {font-size: 60px} .figure small {font-size: 1.6rem} .figure span {font-size: 1.15rem}
.segments {height: 12px; max-width: 24rem}
.status {height: 2rem} .status, .status .legend {font-size: 1.15rem}
.verdict {font-size: 1.5rem; line-height: 1.8rem; height: 3.7rem}
.pace {font-size: 1.1rem}
/* The canvas of the tree knows only pixels. */
.st-key-live_tree {height: 22rem} .st-key-live_tree iframe {zoom: 1.5; min-width: 0}
.st-key-answer_text {height: 12.5rem; font-size: 24px}
[data-testid=stVegaLiteChart] svg text {font-size: 13px !important}
[data-testid=stVegaLiteChart] svg text[font-weight=bold] {font-size: 20px !important}
"""
"""For a room: the type of the scene half as large again, and nothing that asks for a pointer."""
