package worker

// Steps of an attempt that Options.At is told of, in the order of its life.
const (
	StepOrdered   = "ordered"   // the order was read, nothing was done
	StepRecorded  = "recorded"  // the record is on disk
	StepStarted   = "started"   // Start is committed
	StepLaunching = "launching" // its lease was looked at; the supervisor comes next
	StepLaunched  = "launched"  // the job runs
	StepEnded     = "ended"     // its exit record was seen
	StepReporting = "reporting" // Finish comes next
	StepReported  = "reported"  // Finish is committed
	StepForgotten = "forgotten" // its record is closed
)

// Steps gives them all in order.
func Steps() []string {
	return []string{StepOrdered, StepRecorded, StepStarted, StepLaunching, StepLaunched, StepEnded, StepReporting, StepReported, StepForgotten}
}

// reached tells Options.At, if anybody wants to know.
func (w *Worker) reached(step string) {
	if w.o.At != nil {
		w.o.At(step)
	}
}
