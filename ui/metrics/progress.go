package metrics

import (
	"regexp"
	"strconv"
)

// Progress is how far a run has come.
type Progress struct {
	Epoch  int `json:"epoch"`  // that is under way or was the last, from 1
	Epochs int `json:"epochs"` // 0 if nobody says
	// Fraction is of the whole run, 0 to 1, where the number of epochs is known; else of what the bar counts.
	Fraction float64 `json:"fraction"`
}

// The forms in which programs say how far they are. All look at the newest piece of output between line ends, where a
// carriage return ends a line too.
var (
	// Epoch [3/10]:  20%|██        | 1/5 [00:00<00:00,  4.27it/s, loss=0.81]
	epochBracket = regexp.MustCompile(`(?i)\bepoch\s*\[\s*(\d{1,9})\s*/\s*(\d{1,9})\s*\]`)
	// Starting epoch 3/10..., Epoch: 3/10 - Validation Metrics
	epochSlash = regexp.MustCompile(`(?i)\bepochs?\s*:?\s+(\d{1,9})\s*/\s*(\d{1,9})\b`)
	// Epoch 3 Training:  20%|██        | 1/5 [00:00<00:00]
	epochAlone = regexp.MustCompile(`(?i)\bepoch\s*:?\s*(\d{1,9})\b`)
	// 20%|██        | 1/5 [
	bar = regexp.MustCompile(`(\d{1,3})%\|[^|]*\|\s*(\d{1,12})/(\d{1,12})\s*\[`)
)

// ReadProgress finds the newest word on progress in the end of a run's output. epochs is what the config says, 0 if it does
// not. ok is false when nothing in it tells.
func ReadProgress(tail []byte, epochs int) (p Progress, ok bool) {
	end := len(tail)
	for end > 0 {
		start := end
		for start > 0 && tail[start-1] != '\n' && tail[start-1] != '\r' {
			start--
		}
		if p, ok := progressOf(tail[start:end], epochs); ok {
			return p, true
		}
		end = start - 1
	}
	return Progress{}, false
}

func progressOf(line []byte, epochs int) (Progress, bool) {
	var p Progress
	inEpoch, hasBar := barFraction(line)
	switch {
	case match(epochBracket, line, &p):
	case match(epochSlash, line, &p):
		if p.Epoch == 0 { // counted from 0: this one is the first
			p.Epoch = 1
		}
	default:
		m := epochAlone.FindSubmatch(line)
		if m == nil && !hasBar {
			return Progress{}, false
		}
		if m == nil { // a bar that counts something else
			return Progress{Epochs: epochs, Fraction: inEpoch}, epochs == 0
		}
		p.Epoch, _ = strconv.Atoi(string(m[1]))
		p.Epochs = epochs
	}
	if p.Epochs == 0 {
		p.Fraction = inEpoch
		return p, true
	}
	done := float64(p.Epoch)
	if hasBar {
		done += inEpoch - 1
	} else {
		done-- // it has begun
	}
	p.Fraction = min(1, max(0, done/float64(p.Epochs)))
	return p, true
}

func match(re *regexp.Regexp, line []byte, p *Progress) bool {
	m := re.FindSubmatch(line)
	if m == nil {
		return false
	}
	p.Epoch, _ = strconv.Atoi(string(m[1]))
	p.Epochs, _ = strconv.Atoi(string(m[2]))
	return p.Epochs > 0 && p.Epoch <= p.Epochs
}

func barFraction(line []byte) (float64, bool) {
	m := bar.FindSubmatch(line)
	if m == nil {
		return 0, false
	}
	done, _ := strconv.ParseFloat(string(m[2]), 64)
	all, _ := strconv.ParseFloat(string(m[3]), 64)
	if all <= 0 || done > all {
		return 0, false
	}
	return done / all, true
}
