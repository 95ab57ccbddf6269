// Package trainer is the built-in example: it trains a real small model on a real small data set and behaves towards the
// cluster as a well-mannered cvlab-kit experiment does.
//
// The model is a multilayer perceptron, the data are 1,797 handwritten digits that are embedded in the program (data/DATA.md
// names their source and licence). A run takes seconds on one core and needs neither Python nor a GPU, so that
// demonstrations, documentation and tests of the cluster have something true to run on a machine that has only Go.
//
// What it shows about a job under cvlab:
//
//   - it reads a cvlab-kit style YAML config and writes the resolved one beside its metrics;
//   - it writes metrics as a CSV file with `step` first, the whole file anew each epoch, by rename;
//   - it writes checkpoints into CVLAB_CKPT_DIR, by rename, and continues from CVLAB_RESUME_FROM as if it had never stopped;
//   - SIGUSR1 makes it write a checkpoint now, SIGTERM makes it write one and leave with 143.
//
// [Main] is the whole command line. [Digits], [Model] and [Optimizer] are the pure pieces underneath.
package trainer
