"""The design that all HTML pages share: base.html (layout, style, script) and components.html (macros)."""
