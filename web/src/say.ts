import { shallowRef } from "vue";

/** What App.vue says at the foot of the screen, and to screen readers; "" = nothing. */
export const said = shallowRef("");
let timer: ReturnType<typeof setTimeout> | undefined;

/** Says a sentence for some seconds. A second one takes its place. */
export function say(text: string): void {
  clearTimeout(timer);
  said.value = text;
  timer = setTimeout(() => (said.value = ""), 3000 + 40 * text.length);
}

/** A question that App.vue shows. */
export interface Question {
  title: string;
  /** More about it; "" = the title says it all. */
  text?: string;
  /** The word on the button that does it. */
  yes: string;
  /** It cannot be undone. */
  danger?: boolean;
}

/** The question that is open, with how it is answered. */
export const asked = shallowRef<Question & { answer: (yes: boolean) => void }>();

/** Asks before something is done. Resolves false when the person thinks better of it. */
export function ask(question: Question): Promise<boolean> {
  asked.value?.answer(false);
  return new Promise((resolve) => {
    asked.value = {
      ...question,
      answer: (yes) => {
        asked.value = undefined;
        resolve(yes);
      },
    };
  });
}
