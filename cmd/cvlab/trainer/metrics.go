package trainer

import (
	"fmt"
	"strconv"
	"strings"
)

// Row is the metrics of one epoch.
type Row struct {
	Step          int     `json:"step"` // the epoch, from 1
	TrainLoss     float64 `json:"train_loss"`
	ValLoss       float64 `json:"val_loss"`
	Accuracy      float64 `json:"accuracy"`       // share of the validation samples classified rightly, 0..1
	TrainAccuracy float64 `json:"train_accuracy"` // the same over the training batches, measured while learning
}

// csvText is the whole metrics file.
func csvText(history []Row) []byte {
	var b strings.Builder
	b.WriteString("step,train_loss,val_loss,accuracy,train_accuracy\n")
	for _, r := range history {
		b.WriteString(strconv.Itoa(r.Step))
		for _, v := range []float64{r.TrainLoss, r.ValLoss, r.Accuracy, r.TrainAccuracy} {
			b.WriteString("," + pyFloat(v))
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

// metricsLine is what cvlab-kit's agents print after an epoch.
func metricsLine(r Row) string {
	return fmt.Sprintf("Epoch %d Validation Metrics: {'accuracy': %s, 'val_loss': %s}", r.Step, pyFloat(r.Accuracy), pyFloat(r.ValLoss))
}

// bestStep is the epoch with the highest accuracy, the lower loss deciding between equals; 0 if there is none.
func bestStep(history []Row) int {
	best := Row{Accuracy: -1}
	for _, r := range history {
		if r.Accuracy > best.Accuracy || r.Accuracy == best.Accuracy && r.ValLoss < best.ValLoss {
			best = r
		}
	}
	return best.Step
}
