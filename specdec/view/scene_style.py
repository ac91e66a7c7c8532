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
  .verdict {height: 3.75rem}
  .st-key-transport {height: auto}
}
"""
