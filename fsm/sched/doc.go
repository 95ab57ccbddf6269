// Package sched decides which waiting experiment starts where, and says of every other one why it waits.
//
// It is a pure function of the facts, the machines' health and the time: the same input gives the same plan on every
// machine. A plan is a proposal only; each assignment is checked again when its command is applied, so a plan made from
// old facts does no harm.
//
//	plan := sched.Make(sched.Input{View: state.View(), Now: now, Health: health})
//	for _, a := range plan.Assignments { … propose fsm.Assign … }
//	sentence := sched.Reason(in, 42) // "needs 2 GPUs of one node; most free is gpu2 with 1 of 4 (3 held by …); 3 ahead of it"
//
// The rules, in the order in which they are asked:
//
//  1. Greater priority first, then the order of submission.
//  2. An experiment is ready when all its parents have completed, its NotBefore has passed, and fewer than max_parallel
//     of its batch run. One whose parent failed or was cancelled is cancelled.
//  3. A machine takes work when it was heard within 3 s, is not draining, and runs experiments at all.
//  4. A card is given out when its state is "ok" and no open attempt holds it. Idle cards go first, then cards in use by
//     nobody known, then cards with a foreign process that leave at least half their memory free; within each, the card
//     with most free memory, then the machine's name, then the card's index.
//  5. Several GPUs come from one machine: the one that has fewest usable cards left over. A gang gets such a slot from each
//     of as many machines as it asks for, or nothing.
//  6. An experiment that finds no slot does not hold up others with other needs, except that the first one that wants
//     several GPUs or several machines and cannot start keeps the cards of the machines nearest to serving it.
package sched
