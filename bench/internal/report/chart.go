package report

import (
	"bytes"
	"fmt"
	"html"
)

// Sizes of the chart, in pixels.
const (
	chartWidth = 860
	labelWidth = 150
	barHeight  = 12
	panelHead  = 26
	panelGap   = 14
)

// Chart draws, for each measure in the private namespace, the rate of each contestant
// as a share of a direct connection, and beside it the CPU time as a multiple of the
// plain loop's. It is an SVG that follows the reader's choice of light or dark.
func (r *Result) Chart() []byte {
	var body bytes.Buffer
	y := 50
	for _, measure := range r.Measures(Private) {
		y = r.panel(&body, measure, y)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="ambassadord beside other proxies">
<style>
text { font: 11px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600; font-size: 13px }
.ground { fill: #ffffff }
.track { fill: #eaeef2 }
.peer { fill: #8c959f }
.ours { fill: #0969da }
.spread { stroke: #24292f; stroke-width: 1 }
.cut { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .ground { fill: #0d1117 }
  .track { fill: #21262d }
  .peer { fill: #6e7681 }
  .ours { fill: #4493f8 }
  .spread { stroke: #e6edf3 }
  .cut { fill: #0d1117 }
}
</style>
<rect class="ground" width="%d" height="%d"/>
<text class="head" x="%d" y="22">rate ÷ direct (more is better)</text>
<text class="head" x="%d" y="22">CPU ÷ plain (less is better)</text>
`, chartWidth, y, chartWidth, y, labelWidth, columnAt(1))
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func columnAt(i int) int { return labelWidth + i*columnStep() }

func columnStep() int { return (chartWidth - labelWidth) / 2 }

func (r *Result) panel(w *bytes.Buffer, measure string, y int) int {
	fmt.Fprintf(w, `<text class="head" x="8" y="%d">%s</text>`+"\n", y+panelHead-10, html.EscapeString(measure))
	y += panelHead
	for _, c := range r.Contestants(Private) {
		if c == Direct {
			continue
		}
		share, cpu := r.Ratio(Private, measure, c, Direct, Rate()), r.Ratio(Private, measure, c, Plain, CPU())
		if share.N == 0 && cpu.N == 0 {
			continue
		}
		fmt.Fprintf(w, `<text x="16" y="%d">%s</text>`+"\n", y+barHeight-2, html.EscapeString(c))
		bar(w, columnAt(0), y, c, share, 1)
		bar(w, columnAt(1), y, c, cpu, 4)
		y += barHeight + 3
	}
	return y + panelGap
}

// bar draws a figure on a scale that ends at full, and its spread as a line.
func bar(w *bytes.Buffer, x, y int, contestant string, s Spread, full float64) {
	if s.N == 0 {
		return
	}
	width := columnStep() - 70
	at := func(v float64) float64 { return min(v/full, 1) * float64(width) }
	class := "peer"
	if contestant == Ours {
		class = "ours"
	}
	fmt.Fprintf(w, `<rect class="track" x="%d" y="%d" width="%d" height="%d"/>`, x, y, width, barHeight)
	fmt.Fprintf(w, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/>`, class, x, y, at(s.Median), barHeight)
	if s.Median > full { // the bar goes on
		end := x + width - 6
		fmt.Fprintf(w, `<path class="cut" d="M%d %d l4 0 l-6 %d l-4 0 z"/>`, end, y, barHeight)
	}
	fmt.Fprintf(w, `<line class="spread" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`,
		float64(x)+at(s.P25), float64(x)+at(s.P75), y+barHeight/2, y+barHeight/2)
	fmt.Fprintf(w, `<text x="%d" y="%d">%s</text>`+"\n", x+width+6, y+barHeight-2, figure(s.Median))
}
