// Java: Scanner and PrintWriter.
import java.io.*;
import java.net.*;
import java.util.Scanner;

class Main {
  public static void main(String[] args) throws IOException {
    try (Socket conn = new Socket("localhost", Integer.parseInt(args[0]))) {
      Scanner keyboard = new Scanner(System.in, "UTF-8");
      Scanner in = new Scanner(conn.getInputStream(), "UTF-8");
      PrintWriter out = new PrintWriter(new OutputStreamWriter(conn.getOutputStream(), "UTF-8"), true);
      System.out.print("> ");
      while (keyboard.hasNextLine()) {
        String sentence = keyboard.nextLine();
        out.println(sentence);
        if (!in.hasNextLine()) {
          System.out.println("The server closed the connection.");
          return;
        }
        System.out.print(in.nextLine() + "\n> ");
        if (sentence.equals("exit")) return;
      }
    }
  }
}
