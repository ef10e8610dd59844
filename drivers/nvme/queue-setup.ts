/** Creates and deletes I/O queues by admin commands: NVM Express Base Specification 1.4, 5.3 to 5.6, 7.6. */
import type { CommandData } from './data.ts';
import { PrpEntries } from './prp.ts';
import type { NvmeCommand, QueuePair } from './queue-pair.ts';
import { ADMIN, FEATURE, QUEUE_FLAG } from './registers.ts';

/** Submits an admin command. @returns Dword 0 of its completion. */
export type SubmitAdmin = (command: NvmeCommand, data: CommandData | null) => Promise<number>;

/** Requests I/O queues (5.21.1.7). @returns The smaller of the two granted counts, submission and completion queues. */
export async function requestQueues(submit: SubmitAdmin, count: number): Promise<number> {
  const wanted = count - 1;
  const command = { opcode: ADMIN.setFeatures, cdw10: FEATURE.numberOfQueues, cdw11: wanted | (wanted << 16) };
  const result = await submit(command, null);
  return Math.min(result & 0xffff, result >>> 16) + 1;
}

/** Creates I/O queues. The completion queue of each pair comes first (5.3, 5.4, 7.6.1). */
export async function createQueues(
  submit: SubmitAdmin,
  queues: readonly QueuePair[],
  hasInterrupts: boolean,
): Promise<void> {
  for (const queue of queues) {
    const cdw10 = queue.id | ((queue.entries - 1) << 16);
    const interrupt = hasInterrupts ? QUEUE_FLAG.interruptsEnabled | (queue.vector << 16) : 0;
    const create = (opcode: number, address: number, more: number): Promise<number> =>
      submit({ opcode, cdw10, cdw11: QUEUE_FLAG.physicallyContiguous | more }, queueAt(address));
    await create(ADMIN.createCompletionQueue, queue.completionAddress, interrupt);
    await create(ADMIN.createSubmissionQueue, queue.submissionAddress, queue.id << 16);
  }
}

/** Command data with a queue's address as PRP1. */
function queueAt(address: number): CommandData {
  const prps = new PrpEntries();
  prps.prp1 = address;
  return { prps, map: () => true, unmap: () => null };
}

/**
 * Deletes I/O queues. Deleting a submission queue ends its commands in flight (5.6, 7.3.3). A completion queue's
 * doorbell is not written once its deletion was requested.
 */
export async function deleteQueues(submit: SubmitAdmin, queues: readonly QueuePair[]): Promise<void> {
  for (const { id } of queues) await submit({ opcode: ADMIN.deleteSubmissionQueue, cdw10: id }, null);
  for (const queue of queues) {
    queue.state = 'absent';
    await submit({ opcode: ADMIN.deleteCompletionQueue, cdw10: queue.id }, null);
  }
}
