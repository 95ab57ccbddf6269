// Package metrics reads the files of a run and gives series for charts.
//
// A Reader takes one file's bytes as they come and hands out points: cvlab-kit's CSV, JSON lines, TensorBoard events. A Run
// follows the files of one run directory, keeps what they said in columns on disk, and answers with as many points as a
// chart can show, peaks kept. Progress is read from the output.
//
// Nothing here is a fact: everything can be read again from the files, and is when the columns are damaged.
package metrics
