"""The report's style sheet: one column of quiet sections, light or dark as the reader's system is.

Colours go in two families that differ for every kind of colour vision: blues for what predicts, is
right or grew; oranges for what learns, is wrong or was dropped. Meaning is never in colour alone.
"""

from __future__ import annotations

LIGHT = {
    "page": "#f6f6f3", "card": "#ffffff", "ink": "#1c222a", "soft": "#525c68", "line": "#dfe1e3",
    "track": "#e9ebec", "blue": "#2b6cb3", "orange": "#b9560b", "teal": "#0b7d72",
    "plum": "#93437c", "code": "#eceef0",
    "p-weights": "#2b6cb3", "p-indices": "#74a9dd", "p-rows": "#1b4675", "p-activations": "#3fa196",
    "p-small": "#79838e", "p-residual": "#d98232", "p-scratch": "#eab676", "p-replay": "#a3548b",
    "p-learner": "#7d3f0c", "p-anchors": "#c98bbf", "p-snapshot": "#9db8d2",
    "p-unused": "#d5d8db",
    "l1": "#2b6cb3", "l2": "#74a9dd", "l3": "#1b4675", "l4": "#3fa196",
}  # fmt: skip
DARK = {
    "page": "#101317", "card": "#181c21", "ink": "#e7eaee", "soft": "#a3adb8", "line": "#2d333a",
    "track": "#262c33", "blue": "#6cabeb", "orange": "#ee9a50", "teal": "#4fc0b2",
    "plum": "#d68fc0", "code": "#242a31",
    "p-weights": "#5a9fe2", "p-indices": "#2f6296", "p-rows": "#a9cff5", "p-activations": "#3f998e",
    "p-small": "#8d97a3", "p-residual": "#d98232", "p-scratch": "#8f5a26", "p-replay": "#b96aa3",
    "p-learner": "#f3c795", "p-anchors": "#7c4a70", "p-snapshot": "#4c6a88",
    "p-unused": "#333a42",
    "l1": "#5a9fe2", "l2": "#2f6296", "l3": "#a9cff5", "l4": "#3f998e",
}  # fmt: skip


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--ink);
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
 font-variant-numeric:tabular-nums}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 24px}
header{padding-top:44px}
h1{font-size:30px;line-height:1.2;font-weight:650;letter-spacing:-.015em;margin:0 0 10px;
 overflow-wrap:anywhere}
h2{font-size:20px;font-weight:650;letter-spacing:-.01em;margin:0 0 4px}
h3{font-size:15px;font-weight:650;margin:28px 0 4px}
p{margin:0 0 12px;max-width:72ch}
.kicker{color:var(--soft);font-size:13px;margin:0 0 6px}
.lead{font-size:18px;line-height:1.5;color:var(--soft);max-width:62ch}
.lead b{color:var(--ink);font-weight:600}
bdi{overflow-wrap:anywhere}
a{color:var(--blue)}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:22px 0 0;
 font-size:14px}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
 padding:24px 26px 22px;margin:20px 0;min-width:0}
section>:last-child{margin-bottom:0}
.note,figcaption,caption{color:var(--soft);font-size:14px;line-height:1.5}
.missing{border-left:3px solid var(--line);padding:2px 0 2px 14px;color:var(--soft);
 font-size:14px;margin:14px 0}
code{font:13px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
 background:var(--code);color:var(--ink);border-radius:4px;padding:1px 5px;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:1px;
 background:var(--line);border:1px solid var(--line);border-radius:12px;overflow:hidden;
 margin:24px 0 0;padding:0}
.cards div{background:var(--card);padding:16px 18px 15px;min-width:0}
.cards dt{color:var(--soft);font-size:13px}
.cards dd{margin:2px 0 0}
.cards .big{font-size:25px;line-height:1.25;font-weight:620;letter-spacing:-.02em}
.cards .sub{font-size:13px;line-height:1.4;color:var(--soft);margin-top:4px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));
 gap:18px 30px;margin:16px 0 0}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:18px 22px;
 margin:16px 0}
figure{margin:0;min-width:0}
figcaption{margin-top:7px}
figcaption b,caption b{color:var(--ink);font-weight:600}
img{display:block;max-width:100%;height:auto;image-rendering:pixelated}
.heat{border:1px solid var(--line);border-radius:3px}
.maps img{width:100%;height:auto;max-height:280px}
.wide{margin:14px 0 20px}
.tiles{display:flex;flex-wrap:wrap;gap:6px;margin:12px 0 10px}
.legend{display:flex;align-items:center;gap:8px;font-size:13px;color:var(--soft);margin:10px 0 0}
.legend i{width:120px;height:10px;border:1px solid var(--line);border-radius:2px;flex:none}
.up i{background:linear-gradient(90deg,transparent,rgb(52,131,214))}
.root i{background:linear-gradient(90deg,rgb(222,112,20),rgb(222,112,20,.71) 25%,
 rgb(222,112,20,.5) 37.5%,rgb(222,112,20,.25) 46.9%,transparent,rgb(52,131,214,.25) 53.1%,
 rgb(52,131,214,.5) 62.5%,rgb(52,131,214,.71) 75%,rgb(52,131,214))}
.both i{background:linear-gradient(90deg,rgb(222,112,20),transparent,rgb(52,131,214))}
.keys{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;color:var(--soft);padding:0;
 margin:6px 0 0;list-style:none}
.sw{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:7px;
 vertical-align:-1px}
.scroll{overflow-x:auto;margin:14px 0 0;max-width:100%}
table{border-collapse:collapse;font-size:14px;width:100%}
caption{text-align:left;padding:0 0 8px;max-width:min(72ch,82vw)}
th,td{text-align:left;padding:6px 16px 6px 0;border-bottom:1px solid var(--line);
 vertical-align:top;font-weight:400}
thead th{color:var(--soft);font-size:13px;vertical-align:bottom;line-height:1.3}
tbody tr:last-child>*{border-bottom:0}
tbody th{min-width:84px}
th:last-child,td:last-child{padding-right:0}
.num{text-align:right;white-space:nowrap}
.sum>*{font-weight:620;border-bottom-color:var(--soft)}
.group>*{padding-top:18px;font-weight:620}
.bar{display:block;background:var(--track);border-radius:3px;height:9px;min-width:80px;
 margin-top:7px;overflow:hidden}
.bar span{display:block;height:100%;background:var(--blue);border-radius:3px}
.bar .orange{background:var(--orange)}
.bar .teal{background:var(--teal)}
.flow{list-style:none;display:flex;flex-wrap:wrap;gap:10px 0;padding:0;margin:16px 0 6px;
 font-size:13px}
.flow li{display:flex;align-items:center;min-width:0;max-width:100%}
.flow li+li::before{content:"";width:16px;height:1px;background:var(--soft);flex:none}
.flow div{border:1px solid var(--line);border-radius:8px;padding:7px 11px;line-height:1.35;
 border-top:3px solid var(--p-small);min-width:0}
.flow .trunk{border-top-color:var(--teal)}
.flow .sparse{border-top-color:var(--blue)}
.flow .dense{border-top-color:var(--plum)}
.flow b{display:block;font-weight:620}
.flow span{color:var(--soft)}
.matrix{width:auto;font-size:13px}
.matrix th,.matrix td{border:0;padding:0}
.matrix tbody th{padding:0 9px 0 0;text-align:right;max-width:150px;min-width:0;line-height:1.2;
 vertical-align:middle;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.layers tbody>tr>*,.values tbody>tr>*{white-space:nowrap}
.matrix thead th{text-align:center;max-width:64px;padding:0 2px 5px;line-height:1.2}
.upright thead th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;
 vertical-align:middle;padding:5px 0 0;max-height:110px;white-space:nowrap;width:33px}
.matrix td{min-width:33px;height:31px;text-align:center;vertical-align:middle;
 border:1px solid var(--card);border-radius:3px;background:var(--track)}
.matrix td.right{background:color-mix(in srgb,var(--blue) calc(var(--v)*52%),var(--track))}
.matrix td.wrong{background:color-mix(in srgb,var(--orange) calc(12% + var(--v)*50%),var(--track))}
.matrix td.strip{min-width:220px;width:70vw;max-width:760px;background:none}
.matrix thead td{background:none}
.pair{display:flex;flex-wrap:wrap;gap:8px 48px}
.pair>*{flex:0 1 auto;min-width:0}
.pair>:last-child{flex:1 1 320px}
.matrix .strip img{width:100%;height:15px}
.faults{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:20px 18px;
 margin:18px 0 0}
.faults img{width:96px;height:auto;border:1px solid var(--line);border-radius:4px}
.faults.lines{grid-template-columns:repeat(auto-fill,minmax(min(100%,220px),1fr))}
.faults figcaption{font-size:13px;line-height:1.4}
.faults .said{color:var(--orange);font-weight:620}
.spark{width:100%;height:auto;display:block;border:1px solid var(--line);border-radius:4px}
svg{display:block;max-width:100%}
.map{width:100%;height:auto;margin:18px 0 4px}
.y{font-size:13px;color:var(--soft);margin:0 0 2px}
.chart{width:100%;max-width:520px;height:auto;
 font:11px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
.chart text{fill:var(--soft);paint-order:stroke;stroke:var(--card);stroke-width:3px;
 stroke-linejoin:round}
.grid-line,.chart .grid{stroke:var(--line)}
.chart .zero{stroke:var(--soft)}
.chart .guide{stroke:var(--soft);stroke-dasharray:3 3}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.blue{stroke:var(--blue)}.line.orange{stroke:var(--orange)}
.line.teal{stroke:var(--teal)}.line.plum{stroke:var(--plum)}.line.ink{stroke:var(--ink)}
.spark .line{stroke-width:1.5;vector-effect:non-scaling-stroke}
.fill.blue{fill:var(--blue)}.fill.orange{fill:var(--orange)}.fill.teal{fill:var(--teal)}
.l1{fill:var(--l1);background:var(--l1)}.l2{fill:var(--l2);background:var(--l2)}
.l3{fill:var(--l3);background:var(--l3)}.l4{fill:var(--l4);background:var(--l4)}
.drop{fill-opacity:.55}
.dot.blue{fill:var(--blue)}.dot.orange{fill:var(--orange)}.dot.far{opacity:0}
.dot.far:hover{opacity:1}.fill:hover{opacity:.75}
footer{color:var(--soft);font-size:13px;padding-top:8px;padding-bottom:48px}
@media (max-width:560px){
 main,header,footer{padding-left:14px;padding-right:14px}
 header{padding-top:26px}
 section{padding:18px 16px;border-radius:10px}
 h1{font-size:25px}
 .lead{font-size:16px}
 .cards{grid-template-columns:repeat(2,minmax(0,1fr))}
 .cards .big{font-size:21px}
 .maps{grid-template-columns:repeat(2,minmax(0,1fr));gap:16px 14px}
 .faults{grid-template-columns:repeat(auto-fill,minmax(100px,1fr))}
 .purpose{display:none}
}
@media print{
 body{background:#fff;font-size:11pt}
 section{border:0;padding:0;margin:24px 0;break-inside:auto}
 figure,tr,.cards,h2,h3{break-inside:avoid}
 h2,h3{break-after:avoid}
 nav{display:none}
 .scroll{overflow:visible}
 *{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""


def sheet() -> str:
    """The whole style sheet. A page on paper is a light one."""
    parts = "".join(f".{name}{{fill:var(--{name});background:var(--{name})}}"
                    for name in LIGHT if name.startswith("p-"))  # fmt: skip
    return (
        f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
        + "".join(line.strip() if line.startswith(" ") else line for line in _RULES.splitlines())
        + parts
    )
