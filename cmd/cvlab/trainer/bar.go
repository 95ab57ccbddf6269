package trainer

import (
	"fmt"
	"strings"
	"time"
)

// bar is the state of a progress bar as tqdm draws it.
type bar struct {
	epoch, epochs int
	done, total   int
	elapsed       time.Duration
	fresh         int // of done, how many this process has made in elapsed; the rest was in the checkpoint
	loss          float64
}

// String is one refresh: a carriage return and the line, without a newline.
func (b bar) String() string {
	rate, left := "?it/s", "?"
	if b.fresh > 0 && b.elapsed > 0 {
		perSecond := float64(b.fresh) / b.elapsed.Seconds()
		rate = fmt.Sprintf("%5.2fit/s", perSecond)
		left = clock(time.Duration(float64(b.total-b.done) / perSecond * float64(time.Second)))
	}
	loss := ""
	if b.done > 0 {
		loss = fmt.Sprintf(", loss=%.4f", b.loss)
	}
	return fmt.Sprintf("\rEpoch [%d/%d]: %3d%%|%s| %d/%d [%s<%s, %s%s]",
		b.epoch, b.epochs, b.done*100/b.total, blocks(b.done, b.total, 10), b.done, b.total, clock(b.elapsed), left, rate, loss)
}

// blocks fills width cells, to an eighth of a cell.
func blocks(done, total, width int) string {
	eighths := done * width * 8 / total
	s := strings.Repeat("█", eighths/8)
	if part := eighths % 8; part > 0 {
		s += string([]rune(" ▏▎▍▌▋▊▉")[part])
	}
	return s + strings.Repeat(" ", width-(eighths+7)/8)
}

// clock is MM:SS, or H:MM:SS from an hour on.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}
